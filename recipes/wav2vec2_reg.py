"""Fine-tune a speech encoder to values (intensities, valence, arousal, sentiment), or to several labels at once.

    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei
    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei --loss ccc_mse --thresholds 0.5 0.3
    accelerate launch recipes/wav2vec2_reg.py --dataset iemocap --labels vad --loss ccc
    accelerate launch recipes/wav2vec2_reg.py --dataset demo --labels multi_label

What is learned follows the label configuration: a regression one gives values, a multi-label one probabilities with a
decision threshold for each label, tuned on validation and saved in the configuration.
"""

from ser_hf import args, pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="wav2vec2_reg")
    data, run_args, training = flags.data, flags.run, flags.training

    from ser_hf.losses import positive_weights
    from ser_hf.preprocessing import add_to_train, load_data
    from ser_hf.protocols import check_disjoint, find_protocol, split
    from ser_hf.results import Setup
    from ser_hf.scoring import vector_metrics_of
    from ser_hf.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow.
    run.check_names(data, ("regression", "multi_label_classification"))
    push_to = run.start(training, run_args, flags.given)

    # 3. Corpus and folds.
    with training.main_process_first():
        corpus, report, mixed = load_data(data)
    protocol = find_protocol(report.corpus, data.protocol)
    splits = split(corpus, report.corpus, data.protocol, data.fold, data.validation_fraction, data.split_seed)
    splits = add_to_train(splits, mixed)
    check_disjoint(splits, protocol.speaker_independent, protocol.validation)
    setup = Setup("wav2vec2_reg", flags.given, splits, report, mixed, protocol, data.fold, push_to)
    run.say_setup(setup)
    windowed = pieces.make_windows(splits, data)

    # 4. Model.
    model, extractor = pieces.audio_model(flags.model, report, training.do_train)
    pieces.draw_augmentation(run_args, flags.augmentation, training, splits, extractor)

    # 5. Trainer: selected by mean CCC, or mean average precision, on validation.
    multi_label = report.problem_type == "multi_label_classification"
    run.select_on_validation(training, "map" if multi_label else "ccc", has_validation=len(splits["validation"]) > 0)
    weights = positive_weights(splits["train"]["label"]) if run_args.class_weights == "balanced" else None
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=windowed["train"],
        eval_dataset=windowed["validation"],
        processing_class=extractor,
        **pieces.make_collators(extractor, flags, report),
        compute_metrics=vector_metrics_of(report.label_names, report.problem_type),
        batch_seconds=run_args.batch_seconds,
        loss=pieces.make_loss(report.problem_type, run_args, training, weights if multi_label else None),
        exact_evaluation=pieces.pads_change_output(model),
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 6. Test, once; model, card, results, push.
    run.finish(trainer, flags, extractor, setup, trained, windowed)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

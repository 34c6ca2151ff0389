"""Fine-tune a speech encoder to classify emotions.

    accelerate launch recipes/wav2vec2_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/wav2vec2_cls.py --dataset demo
    accelerate launch --multi_gpu --num_processes 4 recipes/wav2vec2_cls.py --dataset ravdess \
        --model_name_or_path facebook/wav2vec2-large-xlsr-53 --pooling max

Corpus -> speaker-independent split -> encoder, pooling, head -> selected on validation -> test scored once -> a folder
that `pipeline("audio-classification", model=folder)` loads.
"""

from ser_hf import args, pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="wav2vec2")
    data, run_args, training = flags.data, flags.run, flags.training

    from ser_hf.losses import class_weights
    from ser_hf.metrics import load_metric
    from ser_hf.preprocessing import add_to_train, load_data, with_soft_labels
    from ser_hf.protocols import check_disjoint, find_protocol, split
    from ser_hf.results import Setup
    from ser_hf.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow.
    run.check_names(data)
    push_to = run.start(training, run_args, flags.given)

    # 3. Corpus and folds.
    with training.main_process_first():
        corpus, report, mixed = load_data(data)
    protocol = find_protocol(report.corpus, data.protocol)
    splits = split(corpus, report.corpus, data.protocol, data.fold, data.validation_fraction, data.split_seed)
    splits = add_to_train(splits, mixed)
    check_disjoint(splits, protocol.speaker_independent, protocol.validation)
    setup = Setup("wav2vec2_cls", flags.given, splits, report, mixed, protocol, data.fold, push_to)
    run.say_setup(setup)
    windowed = pieces.make_windows(splits, data)

    # 4. Model.
    model, extractor = pieces.audio_model(flags.model, report, training.do_train)
    pieces.draw_augmentation(run_args, flags.augmentation, training, splits, extractor)

    # 5. Trainer: selected by UAR on validation.
    run.select_on_validation(training, "uar", has_validation=len(splits["validation"]) > 0)
    balanced = run_args.class_weights == "balanced"
    weights = class_weights(splits["train"]["label"], len(report.label_names)) if balanced else None
    metric = load_metric()
    train = windowed["train"]
    train = with_soft_labels(train, len(report.label_names)) if run_args.soft_labels else train
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=windowed["validation"],
        processing_class=extractor,
        **pieces.make_collators(extractor, flags, report),
        compute_metrics=lambda p: metric.compute(predictions=p.predictions.argmax(-1), references=p.label_ids),
        batch_seconds=run_args.batch_seconds,
        loss=pieces.make_loss(report.problem_type, run_args, training, weights),
        exact_evaluation=pieces.pads_change_output(model),
        sampling=pieces.make_sampling(run_args, windowed["train"]),
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 6. Test, once; model, card, results, push.
    run.finish(trainer, flags, extractor, setup, trained, windowed)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

"""Fine-tune a speech encoder to values (intensities, valence, arousal, sentiment), or to several labels at once.

    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei
    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei --loss ccc_mse --thresholds 0.5 0.3
    accelerate launch recipes/wav2vec2_reg.py --dataset iemocap --labels vad --loss ccc
    accelerate launch recipes/wav2vec2_reg.py --dataset demo --labels multi_label

What is learned follows the label configuration: a regression one gives values, a multi-label one probabilities with a
decision threshold for each label, tuned on validation and saved in the configuration.
"""

from ser_hf.training import arguments as args
from ser_hf.training import pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="wav2vec2_reg")
    run_args, training = flags.run, flags.training

    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow; corpus, folds, leak check.
    setup = run.prepare("wav2vec2_reg", flags, ("regression", "multi_label_classification"))
    report, splits = setup.report, setup.splits
    windowed = pieces.make_windows(splits, flags.data)
    parts = windowed or splits

    # 3. Model.
    model, extractor = pieces.audio_model(flags.model, report, training.do_train)
    pieces.draw_augmentation(run_args, flags.augmentation, training, splits, extractor)

    # 4. Trainer: selected by mean CCC, or mean average precision, on validation.
    run.select_on_validation(training, TASKS[report.problem_type].selected_by, len(splits["validation"]) > 0)
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        processing_class=extractor,
        **pieces.make_collators(extractor, flags, report),
        compute_metrics=TASKS[report.problem_type].compute_metrics(report.label_names),
        budget=run_args.batch_seconds,
        loss=pieces.make_loss(report, run_args, training, splits["train"]),
        exact_evaluation=pieces.hears_padding(model.config.audio_config),
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 5. Test, once; model, card, results, push.
    run.finish(trainer, flags, extractor, setup, trained, windowed)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

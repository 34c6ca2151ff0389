"""Train a convolutional network on mel spectrograms or MFCC to classify emotions: minutes on a CPU, no download.

    accelerate launch recipes/spectrogram_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/spectrogram_cls.py --dataset ravdess --arch resnet50
    accelerate launch recipes/spectrogram_cls.py --dataset ravdess --arch cnn1d_8 --features mfcc --trim_db 30
    accelerate launch recipes/spectrogram_cls.py --dataset crema_d --arch alexnet --window_seconds 1 --spec_p 0.5

Corpus -> speaker-independent split -> features, computed once and kept -> network, selected on validation -> test
scored once -> a folder that `pipeline("audio-classification", model=folder, trust_remote_code=True)` loads.
"""

from ser_hf.training import arguments as args
from ser_hf.training import pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="spectrogram")
    data, run_args, training = flags.data, flags.run, flags.training

    from ser_hf.data.mixing import with_soft_labels
    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.models.configuration_spectrogram import IMAGE_ARCHS
    from ser_hf.training import spectrogram_model as spectrograms
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow; corpus, folds, leak check.
    setup = run.prepare("spectrogram_cls", flags)
    report, splits = setup.report, setup.splits
    windowed = pieces.make_windows(splits, data)
    parts = windowed or splits

    # 3. Model, and the features of every clip.
    model, extractor = spectrograms.spectrogram_model(flags, report)
    pieces.draw_augmentation(run_args, flags.augmentation, training, splits, extractor)
    collators = spectrograms.feature_collators(extractor, flags, report, parts)

    # 4. Trainer: selected by UAR on validation (multi-label: mean average precision; values: CCC).
    has_validation = len(splits["validation"]) > 0
    run.select_on_validation(training, TASKS[report.problem_type].selected_by, has_validation)
    train = with_soft_labels(parts["train"], len(report.label_names)) if run_args.soft_labels else parts["train"]
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=spectrograms.as_heard(train, collators["data_collator"]),
        eval_dataset=parts["validation"],
        processing_class=extractor,
        **collators,
        callbacks=spectrograms.early_stopping(run_args, has_validation),
        compute_metrics=TASKS[report.problem_type].compute_metrics(report.label_names),
        budget=run_args.batch_seconds,
        loss=pieces.make_loss(report, run_args, training, splits["train"]),
        exact_evaluation=model.config.arch in IMAGE_ARCHS,
        sampling=pieces.make_sampling(run_args, parts["train"]),
        one_cycle=run_args.one_cycle,
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 5. Test, once; model, card, results, push.
    remarks = [spectrograms.speaker_remark(splits)] if flags.model.speaker_norm else []
    run.finish(trainer, flags, extractor, setup, trained, windowed, remarks=remarks)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

"""Train a convolutional network on mel spectrograms or MFCC to classify emotions: minutes on a CPU, no download.

    accelerate launch recipes/spectrogram_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/spectrogram_cls.py --dataset ravdess --arch resnet50
    accelerate launch recipes/spectrogram_cls.py --dataset ravdess --arch cnn1d_8 --features mfcc --trim_db 30
    accelerate launch recipes/spectrogram_cls.py --dataset crema_d --arch alexnet --window_seconds 1 --spec_p 0.5

Corpus -> speaker-independent split -> features, computed once and cached -> network, selected on validation -> test
scored once -> a folder that `pipeline("audio-classification", model=folder, trust_remote_code=True)` loads.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import SpectrogramSettings, System

SYSTEM = System(
    "spectrogram",
    SpectrogramSettings,
    defaults={"learning_rate": 1e-3, "num_train_epochs": 60},  # from random weights
)


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from ser_hf.evaluation.scoring import compute_metrics
    from ser_hf.models.encoders import padding_sensitive
    from ser_hf.training import spectrogram_model as spectrograms
    from ser_hf.training.losses import draw_weights, make_loss, training_rows
    from ser_hf.training.schedule import early_stopping
    from ser_hf.training.speakers import speaker_remark
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check.
    settings, setup = run.prepare("spectrogram_cls", SYSTEM, settings)
    training, splits = settings.training, setup.splits
    names, task = setup.report.label_names, setup.report.problem_type
    windowed = run.cut_windows(splits, settings.windows)
    parts = windowed.parts if windowed else splits

    # 3. Model, and the features of every clip.
    model, extractor = spectrograms.spectrogram_model(
        names,
        task,
        trim_db=settings.clips.trim_db,
        train=training.do_train,
        **vars(settings.network),
        **vars(settings.features),
    )
    relative = spectrograms.by_speaker(extractor, settings.features.speaker_norm, settings.clips, settings.windows)
    extractor, collators = spectrograms.feature_collators(
        extractor, parts, settings.clips, settings.augmentation, training, relative=relative, num_labels=len(names)
    )

    # 4. Trainer: selected by UAR on validation (several labels: mean average precision; values: CCC).
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=training_rows(parts["train"], settings.sampling),
        eval_dataset=parts["validation"],
        processing_class=extractor,
        **collators,
        callbacks=early_stopping(settings.schedule, len(splits["validation"]) > 0),
        compute_metrics=compute_metrics(names, task),
        budget=settings.batches.budget,
        clips=settings.clips,
        loss=make_loss(task, settings.loss, splits["train"], training.label_smoothing_factor),
        exact_evaluation=padding_sensitive(model.config),
        sampling=draw_weights(parts["train"], settings.sampling),
        one_cycle=settings.schedule.one_cycle,
    )
    run.begin(settings, setup)
    if settings.figures.draw_augmentation:
        run.draw_augmentation(splits, extractor, settings.augmentation, training)
    trained = run.train(trainer, settings.loop) if training.do_train else None

    # 5. Test, once; model, card, results, push.
    remarks = [speaker_remark(splits, model.config.model_type)] if relative else []
    run.finish(
        trainer, settings, setup, trained, extractor, windowed=windowed, remarks=remarks, speaker_normalised=relative
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

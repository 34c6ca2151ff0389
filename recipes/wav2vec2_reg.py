"""Fine-tune a speech encoder to values (intensities, valence, arousal, sentiment), or to several labels at once.

    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei
    accelerate launch recipes/wav2vec2_reg.py --dataset cmu_mosei --loss ccc_mse --thresholds 0.5 0.3
    accelerate launch recipes/wav2vec2_reg.py --dataset iemocap --labels vad --loss ccc
    accelerate launch recipes/wav2vec2_reg.py --dataset demo --labels multi_label

The label set decides what is learned: a regression one gives values, a multi-label one probabilities with a decision
threshold for each label, tuned on validation and saved in the configuration.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import LABELS, PROBE_DEFAULTS, VALUES, AudioRegressionSettings, System

SYSTEM = System(
    "wav2vec2_reg",
    AudioRegressionSettings,
    tasks=(VALUES, LABELS),
    checkpoint="facebook/wav2vec2-base",
    defaults_with={("freeze_encoder", True): PROBE_DEFAULTS},
)


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from ser_hf.evaluation.scoring import compute_metrics
    from ser_hf.models.encoders import padding_sensitive
    from ser_hf.training.audio_model import (
        audio_model,
        audio_remarks,
        check_lengths,
        probe_states,
        reads_states,
        saved_extractor,
        speech_collators,
        with_copies,
    )
    from ser_hf.training.encoder_states import StateCollator, head_of, put_back
    from ser_hf.training.lora import with_lora
    from ser_hf.training.losses import make_loss
    from ser_hf.training.schedule import early_stopping, learning_rates
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check.
    settings, setup = run.prepare("wav2vec2_reg", SYSTEM, settings)
    training, splits = settings.training, setup.splits
    names, task = setup.report.label_names, setup.report.problem_type
    windowed = run.cut_windows(splits, settings.windows)
    parts = windowed.parts if windowed else splits

    # 3. Model; what is frozen reads each utterance once, and the rest is trained on its states.
    probe = settings.encoder.freeze_encoder and training.do_train  # the head alone is trained
    model, extractor = audio_model(
        names, task, new_head=training.do_train, **vars(settings.encoder), **vars(settings.head)
    )
    if training.do_train:
        model = with_lora(model, settings.lora)
        parts = {**parts, "train": with_copies(parts["train"], settings.encoder.speed_copies)}
    check_lengths(model.config.audio_config, parts, settings.clips, settings.augmentation)
    collators, states = speech_collators(model, extractor, settings.clips, settings.augmentation, training.seed), None
    if reads_states(model, parts["train"], settings.clips, settings.augmentation):
        states = probe_states(model, extractor, parts, settings.clips, training, settings.batches.budget)
        collators = {"data_collator": StateCollator(states)}

    # 4. Trainer: selected by mean CCC, or mean average precision, on validation.
    trainer = SerTrainer(
        model=head_of(model) if probe else model,
        args=training,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        processing_class=extractor,
        **collators,
        callbacks=early_stopping(settings.schedule, len(splits["validation"]) > 0),
        compute_metrics=compute_metrics(names, task),
        budget=None if probe else settings.batches.budget,
        clips=settings.clips,
        loss=make_loss(task, settings.loss, splits["train"], training.label_smoothing_factor),
        exact_evaluation=not states and padding_sensitive(model.config.audio_config),
        one_cycle=settings.schedule.one_cycle,
        rate_of=learning_rates(model.config.audio_config, training.learning_rate, settings.tuning),
    )
    run.begin(settings, setup)
    if settings.figures.draw_augmentation:
        run.draw_augmentation(splits, extractor, settings.augmentation, training)
    trained = run.train(trainer, settings.loop) if training.do_train else None
    whole = put_back(trainer.accelerator.unwrap_model(trainer.model), model) if probe else None

    # 5. Test, once; model, card, results, push.
    run.finish(
        trainer,
        settings,
        setup,
        trained,
        saved_extractor(extractor, settings.clips),
        windowed=windowed,
        remarks=audio_remarks(model, states, splits),
        speaker_normalised=states is not None and states.shifts is not None,
        model=whole,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

r"""Fuse an audio and a text encoder to recognise emotions from what is said and how.

    accelerate launch recipes/fusion_cls.py --dataset iemocap --audio_model runs/iemocap_wav2vec2_fold0_seed42 \
        --text_model runs/iemocap_text_fold0_seed42
    accelerate launch recipes/fusion_cls.py --dataset iemocap --audio_model facebook/wav2vec2-base \
        --text_model roberta-base --fusion cross_attention --freeze_encoders false --learning_rate 1e-5

Encoders are frozen unless --freeze_encoders false: each utterance goes through each of them once, the head is trained
on their cached hidden states, and the whole model is saved. The report compares it with audio alone, text alone and
their averaged probabilities on the same test utterances. `pipeline("speech-emotion-recognition", model=folder)` takes
{"audio", "text"}, either of which may be missing.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import PROBE_DEFAULTS, TRAINING_DEFAULTS, FusionSettings, System

WHOLE = {
    "learning_rate": TRAINING_DEFAULTS["learning_rate"],
    "num_train_epochs": 15,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
}
SYSTEM = System("fusion", FusionSettings, defaults=PROBE_DEFAULTS, defaults_with={("freeze_encoders", False): WHOLE})


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from ser_hf.training import fusion_model as fusion
    from ser_hf.training.audio_model import check_lengths
    from ser_hf.training.encoder_states import MODALITIES, StateCollator, check_states, encode, head_of, put_back
    from ser_hf.training.lora import with_lora

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check.
    settings, setup = run.prepare("fusion_cls", SYSTEM, settings)
    training, splits, clips = settings.training, setup.splits, settings.clips
    names, task = setup.report.label_names, setup.report.problem_type

    # 3. Model: two encoders under a new head.
    model, processor = fusion.fusion_model(
        names, task, new_head=training.do_train, **vars(settings.fusion), **vars(settings.text)
    )
    check_lengths(model.config.audio_config, splits, clips, advice="give --max_seconds")
    remarks = fusion.modality_remarks(splits, processor.text_cleaning)
    run.say(*remarks)
    if training.do_train:
        model = with_lora(model, settings.lora)

    if settings.fusion.freeze_encoders and training.do_train:
        # 4a. Each utterance through each encoder once; then heads on the states: the fusion's, and one per modality.
        states = encode(model, processor, splits, clips, training, settings.batches.budget)
        check_states(model, states, splits["test"].select(range(min(8, len(splits["test"])))))
        untrained = head_of(model)
        trainer = fusion.fusion_trainer(head_of(model), StateCollator(states), processor, settings, setup)
        run.begin(settings, setup)
        trained = run.train(trainer, settings.loop)
        others = {
            f"{name}_only": fusion.trained_alone(name, untrained, states, processor, settings, setup)
            for name in MODALITIES
        }
        others["average"] = fusion.averaged(list(others.values()), task)
        model = put_back(trainer.accelerator.unwrap_model(trainer.model), model)
        remarks += states.remarks
    else:
        # 4b. Everything is trained, on raw input.
        collator = fusion.FusionCollator(processor, clips)
        trainer = fusion.fusion_trainer(model, collator, processor, settings, setup)
        run.begin(settings, setup)
        trained = run.train(trainer, settings.loop) if training.do_train else None
        others = fusion.withheld(trainer, collator, splits)
        model = None  # the trainer's

    # 5. Test, once; model, card, results, push.
    run.finish(
        trainer,
        settings,
        setup,
        trained,
        processor,
        task="speech-emotion-recognition",
        others=fusion.on_test(others, setup),
        remarks=remarks,
        model=model,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

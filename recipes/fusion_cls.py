"""Fuse an audio and a text encoder to recognise emotions from what is said and how.

    accelerate launch recipes/fusion_cls.py --dataset iemocap --audio_model runs/iemocap_wav2vec2_fold0_seed42 \
        --text_model runs/iemocap_text_fold0_seed42
    accelerate launch recipes/fusion_cls.py --dataset iemocap --audio_model facebook/wav2vec2-base \
        --text_model roberta-base --fusion cross_attention --freeze_encoders false --learning_rate 1e-5

Encoders are frozen unless --freeze_encoders false: each utterance goes through each of them once, the head is trained
on what they made of it, and the whole model is saved. The report holds audio alone, text alone and their averaged
probabilities on the same test utterances. `pipeline("speech-emotion-recognition", model=folder)` takes {"audio",
"text"}, either of which may be missing.
"""

from ser_hf.training import arguments as args
from ser_hf.training import run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="fusion")
    data, training = flags.data, flags.training

    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training import fusion_model as fusion
    from ser_hf.training.lora import with_lora
    from ser_hf.training.states import MODALITIES, StateCollator, check_states, encode

    # 2. Everything that can be wrong is found out before anything slow; corpus, folds, leak check.
    setup = run.prepare("fusion_cls", flags)
    splits, kind = setup.splits, setup.report.problem_type

    # 3. Model: two encoders under a new head.
    model, processor = fusion.load(flags.model, setup.report, training.do_train)
    remarks = fusion.modality_remarks(splits, processor.text_cleaning)
    run.say(*remarks)
    model = with_lora(model, flags.model) if training.do_train else model
    run.select_on_validation(training, TASKS[kind].selected_by, len(splits["validation"]) > 0)

    if flags.model.freeze_encoders and training.do_train:
        # 4a. Each utterance through each encoder once; then heads on what came out: the fusion's, and one a modality.
        states = encode(model, processor, splits, flags)
        check_states(model, processor, states, splits["test"].select(range(min(8, len(splits["test"])))), flags)
        untrained = fusion.head_of(model)
        trainer = fusion.make_trainer(fusion.head_of(model), StateCollator(states), processor, flags, setup)
        trained = run.train(trainer, training)
        others = {
            f"{name}_only": fusion.trained_alone(name, untrained, states, processor, flags, setup)
            for name in MODALITIES
        }
        others["average"] = fusion.averaged(list(others.values()), kind)
        model = fusion.put_back(trainer.accelerator.unwrap_model(trainer.model), model)
        remarks += ["scored on encoder outputs in half precision; the saved model is float32"] if states.half else []
    else:
        # 4b. Everything is trained, on raw input.
        collator = fusion.FusionCollator(processor, data)
        trainer = fusion.make_trainer(model, collator, processor, flags, setup)
        trained = run.train(trainer, training) if training.do_train else None
        others = fusion.withheld(trainer, collator, splits)
        model = None  # the trainer's

    # 5. Test, once; model, card, results, push.
    others, task = fusion.on_test(others, setup), "speech-emotion-recognition"
    run.finish(trainer, flags, processor, setup, trained, task=task, others=others, remarks=remarks, model=model)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

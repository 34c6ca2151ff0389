r"""Classify emotions by a linear classifier of openSMILE's functionals, the baseline of most papers, in minutes; or of
the hidden states of a frozen encoder.

    accelerate launch recipes/classical_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/classical_cls.py --dataset ravdess --features ComParE_2016 --class_weights balanced
    accelerate launch recipes/classical_cls.py --dataset crema_d --classifier logistic --speaker_norm true
    accelerate launch recipes/classical_cls.py --dataset ravdess --features openai/whisper-base.en --layers 2 3 4 5

Corpus -> speaker-independent split -> one vector per clip, computed once and cached -> classifier, its complexity
chosen on validation, then fitted to train and validation together -> test scored once -> a folder that
`pipeline("audio-classification", model=folder, trust_remote_code=True)` loads. `pip install ser-hf[classical]` brings
openSMILE.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import CLASSES, FEATURE_SETS, FITTING_FLAGS, ClassicalSettings, System

SYSTEM = System("classical", ClassicalSettings, tasks=(CLASSES,), training_flags=FITTING_FLAGS)


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from ser_hf.training import classical_model as classical
    from ser_hf.training.encoder_states import head_of
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check.
    vectors, classifier = settings.vectors, settings.classifier
    classical.check_vectors(vectors, settings.training.do_train)
    settings, setup = run.prepare("classical_cls", SYSTEM, settings)
    training, splits, names = settings.training, setup.splits, setup.report.label_names

    # 3. The vector of every clip.
    if vectors.features in FEATURE_SETS:
        model, extractor, relative = classical.functionals_model(names, **vars(vectors), **vars(classifier))
        extractor, collator, computed = classical.functionals_of(extractor, splits, training, relative=relative)
        clips = sum(map(len, splits.values()))
        run.say(f"functionals of {clips} clips: {computed} computed, the others were cached")
    else:
        model, extractor, collator = classical.encoder_model(names, splits, vectors, training)
        relative = model.config.speaker_norm
    run.begin(settings, setup)

    # 4. Classifier: its complexity is selected by UAR on validation.
    trained = validation = None
    if training.do_train:
        rows = classical.fitted(splits, vectors.speed_copies)
        linear, trained, validation = classical.choose(rows, collator, len(names), classifier, training.seed)
        model = classical.put_linear(linear, model, trained["complexity"])

    # 5. Test, once; model, card, results, push.
    estimated = collator.states.estimated if vectors.estimate_speakers else {}
    remarks = classical.classifier_remarks(model, splits, trained, relative, estimated)
    head = head_of(model)  # of an encoder's model: it reads the cached states
    trainer = SerTrainer(model=head, args=training, processing_class=extractor, data_collator=collator)
    run.finish(
        trainer,
        settings,
        setup,
        trained,
        extractor,
        remarks=remarks,
        model=model,
        validation=validation,
        speaker_normalised=relative,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

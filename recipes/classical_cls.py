"""Classify emotions by openSMILE's functionals and a linear classifier: the baseline of most papers, in minutes.

    accelerate launch recipes/classical_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/classical_cls.py --dataset ravdess --features ComParE_2016 --class_weights balanced
    accelerate launch recipes/classical_cls.py --dataset crema_d --classifier logistic --speaker_norm true

Corpus -> speaker-independent split -> functionals of each clip, computed once and cached -> classifier, its complexity
chosen on validation, then fitted to train and validation together -> test scored once -> a folder that
`pipeline("audio-classification", model=folder, trust_remote_code=True)` loads. Needs `pip install ser-hf[classical]`.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import CLASSES, FITTING_FLAGS, ClassicalSettings, System

SYSTEM = System("classical", ClassicalSettings, tasks=(CLASSES,), training_flags=FITTING_FLAGS)


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from ser_hf.training import classical_model as classical
    from ser_hf.training.speakers import speaker_remark
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check.
    classical.check_opensmile()
    settings, setup = run.prepare("classical_cls", SYSTEM, settings)
    training, splits = settings.training, setup.splits

    # 3. The functionals of every clip.
    model, extractor, relative = classical.classical_model(
        setup.report.label_names, train=training.do_train, **vars(settings.functionals), **vars(settings.classifier)
    )
    extractor, collator, computed = classical.functionals_of(extractor, splits, training, relative=relative)
    clips = sum(map(len, splits.values()))
    run.say(f"functionals of {clips} clips: {computed} computed, the others were cached")

    # 4. Classifier: its complexity is selected by UAR on validation.
    trained = validation = None
    if training.do_train:
        model, trained, validation = classical.fit(
            model, splits, collator, settings.classifier.class_weights, training.seed
        )

    # 5. Test, once; model, card, results, push.
    remarks = classical.classifier_remarks(model.config, trained)
    remarks += [speaker_remark(splits, model.config.model_type)] if relative else []
    trainer = SerTrainer(model=model, args=training, processing_class=extractor, data_collator=collator)
    run.finish(
        trainer,
        settings,
        setup,
        trained,
        extractor,
        remarks=remarks,
        validation=validation,
        speaker_normalised=relative,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

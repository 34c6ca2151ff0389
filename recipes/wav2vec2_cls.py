"""Fine-tune a speech encoder to classify emotions.

    accelerate launch recipes/wav2vec2_cls.py --dataset emodb --data_dir /corpora/emodb
    accelerate launch recipes/wav2vec2_cls.py --dataset demo
    accelerate launch --multi_gpu --num_processes 4 recipes/wav2vec2_cls.py --dataset ravdess \
        --model_name_or_path facebook/wav2vec2-large-xlsr-53 --pooling max

Corpus -> speaker-independent split -> encoder, pooling, head -> selected on validation -> test scored once -> a folder
that `pipeline("audio-classification", model=folder)` loads.
"""

from ser_hf.training import arguments as args
from ser_hf.training import pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="wav2vec2")
    data, run_args, training = flags.data, flags.run, flags.training

    from ser_hf.data.mixing import with_soft_labels
    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow; corpus, folds, leak check.
    setup = run.prepare("wav2vec2_cls", flags, ("single_label_classification",))
    report, splits = setup.report, setup.splits
    windowed = pieces.make_windows(splits, data)
    parts = windowed or splits

    # 3. Model.
    model, extractor = pieces.audio_model(flags.model, report, training.do_train)
    pieces.draw_augmentation(run_args, flags.augmentation, training, splits, extractor)

    # 4. Trainer: selected by UAR on validation.
    run.select_on_validation(training, "uar", has_validation=len(splits["validation"]) > 0)
    train = with_soft_labels(parts["train"], len(report.label_names)) if run_args.soft_labels else parts["train"]
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=parts["validation"],
        processing_class=extractor,
        **pieces.make_collators(extractor, flags, report),
        compute_metrics=TASKS[report.problem_type].compute_metrics(report.label_names),
        budget=run_args.batch_seconds,
        loss=pieces.make_loss(report, run_args, training, splits["train"]),
        exact_evaluation=pieces.hears_padding(model.config.audio_config),
        sampling=pieces.make_sampling(run_args, parts["train"]),
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 5. Test, once; model, card, results, push.
    run.finish(trainer, flags, extractor, setup, trained, windowed)
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

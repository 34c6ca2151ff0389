"""Fine-tune a text model to classify the emotion of transcripts, or to predict values or several labels at once.

    accelerate launch recipes/text_cls.py --dataset iemocap --model_name_or_path roberta-base
    accelerate launch recipes/text_cls.py --dataset iemocap+cmu_mosei+smile --test_on cmu_mosei --labels 4class
    accelerate launch recipes/text_cls.py --dataset cmu_mosei --labels sentiment --loss ccc_mse
    accelerate launch recipes/text_cls.py --dataset demo

What is learned follows the label configuration. The same protocols and reports as for audio; the report holds the
system against the most frequent answer and TF-IDF under a linear model. What comes out is a stock model that
`pipeline("text-classification", model=folder)` loads.
"""

from ser_hf.training import arguments as args
from ser_hf.training import pieces, run


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    flags = args.parse(__doc__, system="text")
    model_args, run_args, training = flags.model, flags.run, flags.training

    from dataclasses import replace

    from ser_hf.data.mixing import with_soft_labels
    from ser_hf.evaluation.baselines import text_baselines
    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training.lora import with_lora
    from ser_hf.training.text_model import TextCollator, prepare_texts, text_model, text_remarks, tokenize
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found out before anything slow; corpus, folds, leak check; texts.
    setup = run.prepare("text_cls", flags)
    splits, remarks = prepare_texts(setup.splits, model_args.text_cleaning)
    run.say(*remarks)
    names, kind = setup.report.label_names, setup.report.problem_type

    # 3. Model and tokens.
    model, tokenizer = text_model(model_args, setup.report, splits["train"]["text"], training.do_train)
    splits = tokenize(splits, tokenizer, model_args.max_text_length)
    remarks += text_remarks(splits["test"], model_args)
    collator = TextCollator(tokenizer, model)
    model = with_lora(model, model_args) if training.do_train else model

    # 4. What it is held against.
    baselines, about = text_baselines(splits, names, kind) if training.process_index == 0 else ({}, [])

    # 5. Trainer: selected by UAR, mean average precision or mean CCC on validation.
    run.select_on_validation(training, TASKS[kind].selected_by, has_validation=len(splits["validation"]) > 0)
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=with_soft_labels(splits["train"], len(names)) if run_args.soft_labels else splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=TASKS[kind].compute_metrics(names),
        budget=run_args.batch_tokens,
        length="tokens",
        loss=pieces.make_loss(setup.report, run_args, training, splits["train"]),
        sampling=pieces.make_sampling(run_args, splits["train"]),
    )
    trained = run.train(trainer, training) if training.do_train else None

    # 6. Test, once; model, card, results, push.
    run.finish(
        trainer,
        flags,
        tokenizer,
        replace(setup, splits=splits),
        trained,
        task="text-classification",
        others=baselines,
        remarks=remarks + about,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

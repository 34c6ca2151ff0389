"""Fine-tune a text model to classify the emotion of transcripts, or to predict values or several labels at once.

    accelerate launch recipes/text_cls.py --dataset iemocap --model_name_or_path roberta-base
    accelerate launch recipes/text_cls.py --dataset iemocap+cmu_mosei+smile --test_on cmu_mosei --labels 4class
    accelerate launch recipes/text_cls.py --dataset cmu_mosei --labels sentiment --loss ccc_mse
    accelerate launch recipes/text_cls.py --dataset demo

The label set decides what is learned. Protocols and reports are those of the audio recipes; the report compares the
system with the most frequent label and with TF-IDF under a linear model. The result is a stock model that
`pipeline("text-classification", model=folder)` loads.
"""

from ser_hf.training import run
from ser_hf.training.arguments import parse
from ser_hf.training.settings import System, TextSettings

SYSTEM = System("text", TextSettings, checkpoint="bert-base-uncased")


def main() -> None:
    # 1. Flags. Nothing heavy is imported before this line, so that --help and a typo answer at once.
    settings = parse(SYSTEM, __doc__)

    from dataclasses import replace

    from ser_hf.evaluation.baselines import text_baselines
    from ser_hf.evaluation.scoring import compute_metrics
    from ser_hf.training.lora import with_lora
    from ser_hf.training.losses import draw_weights, make_loss, training_rows
    from ser_hf.training.text_model import TextCollator, prepare_texts, text_model, text_remarks, tokenize
    from ser_hf.training.trainer import SerTrainer

    # 2. Everything that can be wrong is found before anything slow; corpus, folds, leak check; texts.
    settings, setup = run.prepare("text_cls", SYSTEM, settings)
    training, text = settings.training, settings.text
    names, task = setup.report.label_names, setup.report.problem_type
    splits, remarks = prepare_texts(setup.splits, text.text_cleaning)
    run.say(*remarks)

    # 3. Model and tokens.
    model, tokenizer = text_model(
        names,
        task,
        splits["train"]["text"][:],
        max_text_length=text.max_text_length,
        new_head=training.do_train,
        **vars(settings.encoder),
    )
    splits = tokenize(splits, tokenizer, text.max_text_length)
    remarks += text_remarks(splits["test"], text.max_text_length, text.text_cleaning)
    collator = TextCollator(tokenizer, model)
    if training.do_train:
        model = with_lora(model, settings.lora)

    # 4. Baselines that read the same texts.
    baselines, about = text_baselines(splits, names, task) if training.process_index == 0 else ({}, [])

    # 5. Trainer: selected by UAR, mean average precision or mean CCC on validation.
    trainer = SerTrainer(
        model=model,
        args=training,
        train_dataset=training_rows(splits["train"], settings.sampling),
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics(names, task),
        budget=settings.batches.budget,
        length="tokens",
        loss=make_loss(task, settings.loss, splits["train"], training.label_smoothing_factor),
        sampling=draw_weights(splits["train"], settings.sampling),
    )
    run.begin(settings, setup)
    trained = run.train(trainer, settings.loop) if training.do_train else None

    # 6. Test, once; model, card, results, push.
    run.finish(
        trainer,
        settings,
        replace(setup, splits=splits),
        trained,
        tokenizer,
        task="text-classification",
        others=baselines,
        remarks=remarks + about,
    )
    trainer.end()


if __name__ == "__main__":
    run.cli(main)

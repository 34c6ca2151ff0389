"""The linear classifier of openSMILE's functionals. Ships to the Hub."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .common import StrictLoading, classification_output
from .configuration_functionals import FEATURE_SETS, SerFunctionalsConfig
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; its config names it


class SerForFunctionalsClassification(StrictLoading, PreTrainedModel):
    """Emotion of a clip by its functionals, standardised by `mean` and `scale` of the training clips."""

    config_class = SerFunctionalsConfig
    main_input_name = "input_features"
    input_modalities = "audio"

    def __init__(self, config: SerFunctionalsConfig):
        super().__init__(config)
        size = FEATURE_SETS[config.feature_set]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.ser_classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def standardised(self, input_features: torch.Tensor) -> torch.Tensor:
        """`(batch, functionals)` with zero mean and unit variance over the training clips."""
        return (input_features - self.mean) / self.scale

    def forward(
        self, input_features: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of functionals `(batch, functionals)`, and with labels the `loss` of
        `classification_output`. An SVM's logits are its decision values: no log-probabilities."""
        logits = self.ser_classifier(self.standardised(input_features))
        return classification_output(logits, labels, self.config.problem_type, return_dict)

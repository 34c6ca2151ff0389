"""Models that ship to the Hub. Registration is here and not in the shipped files: registering there would make the
first repository loaded serve the code of all later ones (shared/PLATFORM.md 2.3)."""

from transformers import AutoConfig, AutoModelForAudioClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_ser import SerConfig
from .modeling_ser import SerForAudioClassification
from .pipeline_ser import TASK, SerPipeline

AutoConfig.register("ser", SerConfig, exist_ok=True)
AutoModelForAudioClassification.register(SerConfig, SerForAudioClassification, exist_ok=True)
SerConfig.register_for_auto_class()
SerForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
# For the stock classes that our mean-pooled models are published as; the others bring their own (SerConfig).
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=SerPipeline, pt_model=AutoModelForAudioClassification)

__all__ = ["SerConfig", "SerForAudioClassification", "SerPipeline"]

"""Models that ship to the Hub. They are registered here and not in the shipped files: registered there, the code of the
first repository that a process loads would serve all later ones."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_fusion import SerFusionConfig
from .configuration_ser import SerConfig
from .configuration_spectrogram import SerSpectrogramConfig
from .feature_extraction_spectrogram import SerSpectrogramFeatureExtractor
from .modeling_fusion import SerFusionForClassification
from .modeling_ser import SerForAudioClassification
from .modeling_spectrogram import SerForSpectrogramClassification, SerSpectrogramModel
from .pipeline_ser import TASK, SerPipeline
from .processing_fusion import SerFusionProcessor

AutoConfig.register("ser", SerConfig, exist_ok=True)
AutoModelForAudioClassification.register(SerConfig, SerForAudioClassification, exist_ok=True)
SerConfig.register_for_auto_class()
SerForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

AutoConfig.register("ser_spectrogram", SerSpectrogramConfig, exist_ok=True)
AutoModel.register(SerSpectrogramConfig, SerSpectrogramModel, exist_ok=True)
AutoModelForAudioClassification.register(SerSpectrogramConfig, SerForSpectrogramClassification, exist_ok=True)
AutoFeatureExtractor.register(SerSpectrogramConfig, SerSpectrogramFeatureExtractor, exist_ok=True)
SerSpectrogramConfig.register_for_auto_class()
SerForSpectrogramClassification.register_for_auto_class("AutoModelForAudioClassification")
SerSpectrogramFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

AutoConfig.register("ser_fusion", SerFusionConfig, exist_ok=True)
AutoModelForAudioClassification.register(SerFusionConfig, SerFusionForClassification, exist_ok=True)
AutoProcessor.register(SerFusionConfig, SerFusionProcessor, exist_ok=True)
SerFusionConfig.register_for_auto_class()
SerFusionForClassification.register_for_auto_class("AutoModelForAudioClassification")
SerFusionProcessor.register_for_auto_class("AutoProcessor")

# For the stock classes that our mean-pooled models are published as; the others name their pipeline in their config.
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=SerPipeline, pt_model=AutoModelForAudioClassification)

__all__ = [
    "SerConfig",
    "SerForAudioClassification",
    "SerForSpectrogramClassification",
    "SerFusionConfig",
    "SerFusionForClassification",
    "SerFusionProcessor",
    "SerPipeline",
    "SerSpectrogramConfig",
    "SerSpectrogramFeatureExtractor",
    "SerSpectrogramModel",
]

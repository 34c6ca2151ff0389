"""Models that ship to the Hub with the files that they import, which therefore import siblings only.

They are registered here and not in the shipped files: registered there, the code of the first repository that a process
loads would serve all later ones."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_fusion import SerFusionConfig
from .configuration_ser import SerConfig
from .configuration_spectrogram import SerSpectrogramConfig
from .feature_extraction_spectrogram import SerSpectrogramFeatureExtractor
from .functionals import SerForFunctionalsClassification, SerFunctionalsConfig, SerFunctionalsFeatureExtractor
from .modeling_fusion import SerFusionForClassification
from .modeling_ser import SerForAudioClassification
from .modeling_spectrogram import SerForSpectrogramClassification, SerSpectrogramModel
from .pipeline_ser import TASK, SerPipeline
from .processing_fusion import SerFusionProcessor
from .whisper import ClipWhisperFeatureExtractor

CLASSES = {
    SerConfig: {
        AutoModelForAudioClassification: SerForAudioClassification,
        AutoFeatureExtractor: ClipWhisperFeatureExtractor,  # found by its name; other encoders have transformers' own
    },
    SerSpectrogramConfig: {
        AutoModel: SerSpectrogramModel,
        AutoModelForAudioClassification: SerForSpectrogramClassification,
        AutoFeatureExtractor: SerSpectrogramFeatureExtractor,
    },
    SerFunctionalsConfig: {
        AutoModelForAudioClassification: SerForFunctionalsClassification,
        AutoFeatureExtractor: SerFunctionalsFeatureExtractor,
    },
    SerFusionConfig: {
        AutoModelForAudioClassification: SerFusionForClassification,
        AutoProcessor: SerFusionProcessor,
    },
}
for config, classes in CLASSES.items():
    AutoConfig.register(config.model_type, config, exist_ok=True)
    config.register_for_auto_class()
    for auto, kind in classes.items():
        auto.register(config, kind, exist_ok=True)
        kind.register_for_auto_class(auto.__name__)

# For the stock classes that our mean-pooled models are published as; the others name their pipeline in their config.
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=SerPipeline, pt_model=AutoModelForAudioClassification)

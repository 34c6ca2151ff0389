"""Configuration of the linear classifiers of openSMILE's functionals. Ships to the Hub."""

from .common import PipelineConfig, check_choice

# Functionals of a clip in each feature set of the package opensmile: eGeMAPS (Eyben et al. 2016, IEEE Trans. Affective
# Computing 7) in version 02, and the set of the INTERSPEECH ComParE challenges since 2013 in its version of 2016.
FEATURE_SETS = {"eGeMAPSv02": 88, "ComParE_2016": 6373}
# All are linear. svm: one against rest, squared hinge loss. logistic: multinomial logistic regression. ridge: least
# squares to -1 and 1.
CLASSIFIERS = ("svm", "logistic", "ridge")


class SerFunctionalsConfig(PipelineConfig):
    """A linear classifier of standardised functionals.

    Args:
        feature_set: One of `FEATURE_SETS`.
        classifier: One of `CLASSIFIERS`. A record, as is `complexity`: the model is the same linear layer.
        complexity: The classifier's C, the inverse strength of its regularisation.
    """

    model_type = "ser_functionals"

    feature_set: str = "eGeMAPSv02"
    classifier: str = "svm"
    complexity: float = 1.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("feature_set", self.feature_set, FEATURE_SETS)
        check_choice("classifier", self.classifier, CLASSIFIERS)

__version__: str

from . import (
    analyses as analyses,
    atlas as atlas,
    compare as compare,
    errors as errors,
    explanations as explanations,
    figures as figures,
    images as images,
    mining as mining,
    models as models,
    network as network,
    projection as projection,
    records as records,
    training as training,
    views as views,
)
from .atlas import write_atlas as write_atlas
from .errors import (
    DeconvError as DeconvError,
    UnsupportedOperation as UnsupportedOperation,
)
from .figures.features import draw as draw
from .figures.masks import save_masks as save_masks
from .images import (
    Source as Source,
    bundled as bundled,
    dataset as dataset,
    folder as folder,
    webdataset as webdataset,
)
from .images.cached import cached as cached
from .images.preprocessing import Preprocessing as Preprocessing
from .mining import mine as mine
from .mining.beyond import peaks_beyond as peaks_beyond
from .models.presets import load as load
from .network import Network as Network
from .network.receptive_field import ReceptiveField as ReceptiveField
from .projection import (
    project as project,
    project_peaks as project_peaks,
)
from .projection.masks import mask_of as mask_of
from .projection.patches import (
    cut_patches as cut_patches,
    patches_of as patches_of,
)
from .projection.rules import Rule as Rule
from .records import (
    ByClass as ByClass,
    Firing as Firing,
    Patches as Patches,
    Peaks as Peaks,
    Reconstructions as Reconstructions,
)
from .views.judge import (
    Judgement as Judgement,
    judge as judge,
)
from .views.look import (
    Look as Look,
    look as look,
)
from .views.path_check import (
    Paths as Paths,
    path_check as path_check,
)
from .views.predict import (
    Prediction as Prediction,
    predict as predict,
)
from .views.strongest import (
    OnPhotograph as OnPhotograph,
    project_strongest as project_strongest,
)
from .views.which_image import (
    ImageChoice as ImageChoice,
    which_image as which_image,
)

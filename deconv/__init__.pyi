from . import (
    analyses as analyses,
)
from . import (
    compare as compare,
)
from . import (
    errors as errors,
)
from . import (
    figures as figures,
)
from . import (
    images as images,
)
from . import (
    mining as mining,
)
from . import (
    models as models,
)
from . import (
    network as network,
)
from . import (
    projection as projection,
)
from . import (
    records as records,
)
from . import (
    training as training,
)
from .atlas import write_atlas as write_atlas
from .errors import DeconvError as DeconvError
from .errors import UnsupportedOperation as UnsupportedOperation
from .figures.features import draw as draw
from .images import Source as Source
from .images import bundled as bundled
from .images import folder as folder
from .images import webdataset as webdataset
from .images.cached import cached as cached
from .images.preprocessing import Preprocessing as Preprocessing
from .mining import mine as mine
from .network import Network as Network
from .network.receptive_field import ReceptiveField as ReceptiveField
from .projection import project as project
from .projection import project_peaks as project_peaks
from .projection.patches import cut_patches as cut_patches
from .projection.patches import patches_of as patches_of
from .projection.rules import Rule as Rule
from .records import Patches as Patches
from .records import Peaks as Peaks
from .records import Reconstructions as Reconstructions

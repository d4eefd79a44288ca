from . import bc as bc
from . import combo as combo
from . import iql as iql
from . import model_based as model_based
from . import mopo as mopo
from . import morel as morel
from . import rambo as rambo

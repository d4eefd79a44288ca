from . import actor_critic_v1_v2 as actor_critic_v1_v2
from . import actor_critic_v3 as actor_critic_v3
from . import common as common
from . import plan2explore as plan2explore
from . import v1 as v1
from . import v2 as v2
from . import v3 as v3

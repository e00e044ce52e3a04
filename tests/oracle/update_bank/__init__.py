"""Programs of one step of training, or of many: what compare and compare_optimizer have to say of each."""

from tests.oracle.update_bank.functions import PROGRAMS as FUNCTIONS
from tests.oracle.update_bank.optimizers import PROGRAMS as OPTIMIZERS
from tests.oracle.update_bank.strangers import PROGRAMS as STRANGERS
from tests.oracle.update_bank.users import PROGRAMS as USERS

PROGRAMS = [*FUNCTIONS, *OPTIMIZERS, *STRANGERS, *USERS]

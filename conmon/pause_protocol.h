// The protocol is the core's, since the addon speaks it too.
#pragma once

#include "core/stages/pause_protocol.h"  // IWYU pragma: export

// cudaStream_t for host code, from CUDA or from the emulation.
#pragma once

#ifdef FER_EDGE_EMULATION
#include "emulation/device.hpp"
#else
#include <cuda_runtime_api.h>
#endif

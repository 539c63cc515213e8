// What TensorRT's headers ask of CUDA, from the emulation.
#pragma once

#include "emulation/device.hpp"

using cudaEvent_t = struct EmulatedEvent*;

// The two precisions of crop_resize_normalize, for the binding to link.
#include "crop_resize_normalize.cuh"

namespace fer_edge {

template Status launch_crop_resize_normalize(const CropResizeNormalizeArguments<float>&, cudaStream_t);
template Status launch_crop_resize_normalize(const CropResizeNormalizeArguments<__half>&, cudaStream_t);

}  // namespace fer_edge

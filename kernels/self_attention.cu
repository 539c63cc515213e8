// The two precisions of self_attention, for the binding and the plugin to link.
#include "self_attention.cuh"

namespace fer_edge {

template Status launch_self_attention(const SelfAttentionArguments<float>&, cudaStream_t);
template Status launch_self_attention(const SelfAttentionArguments<__half>&, cudaStream_t);

}  // namespace fer_edge

// Result of a launcher. No allocation: a launcher may run inside TensorRT's enqueue().
#pragma once

#include <cstdarg>
#include <cstdio>

namespace fer_edge {

enum class StatusCode { kOk, kBadShape, kBadPointer, kLaunchFailed };

struct Status {
  StatusCode code = StatusCode::kOk;
  char message[200] = "";  // the expected and the found value; empty when ok

  bool ok() const { return code == StatusCode::kOk; }
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
inline Status failed(StatusCode code, const char* format, ...) {
  Status status;
  status.code = code;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(status.message, sizeof status.message, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace fer_edge

/* A stand-in for NVIDIA's driver library: what it reports is fixed when it is compiled. */
#include <stddef.h>
#include <string.h>

int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned int flags) { return flags ? 1 : INIT; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 70 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 70 ? "NVIDIA H100" : "NVIDIA T4", length);
    return 0;
}
int cuDeviceGetUuid_v2(char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = (char)(device + i);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)device << 30; return 0; }
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned int flags) {
    return flags != 4 ? 1 : device == 70 ? 0 : device == 71 ? 708 : 101; /* 4: wait asleep; 708: in use already */
}
int cuGetErrorString(int status, const char **text) {
    *text = status == 100 ? "no CUDA-capable device is detected" : NULL;
    return status == 100 ? 0 : 1;
}

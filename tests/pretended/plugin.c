/* An ONNX Runtime plug-in that loads and offers nothing: what OpenVINO's does on a processor that it does not know. */
#include <stddef.h>

void *CreateEpFactories(const char *name, const void *api, const void *logger, void **factories, size_t room,
                        size_t *count) {
    *count = 0;
    return NULL;
}

void *ReleaseEpFactory(void *factory) { return NULL; }

"""The Open Inference Protocol v2 without its transports: typed requests in, typed answers out. Knows no HTTP, no gRPC.

An adapter of a transport does this, with one `Permit` around all of it:

    plane.choose(name, version, deadline)         # early: what needs no body is refused before the body is read
    request = InferRequest(...)                   # parsed by the adapter; the permit holds the bytes of the message
    response = await plane.infer(permit, request, deadline)

Tensors are `messages.InputTensor` (the bytes of the wire, or a flat list of values) and `messages.OutputTensor`
(`raw()` for the wire, `values()` for text). Every failure is an `errors.ProtocolError`, whose `code` an adapter
translates into its own status. A model has one input, `image`: pixels as the network sees them (UINT8 `[N, C, H, W]`),
or encoded JPEG, PNG and WebP files (BYTES `[N]`). One bad image fails the request, and the error names its index.

Specification: https://github.com/kserve/open-inference-protocol, and Triton's extensions `binary_tensor_data`,
`classification`, `schedule_policy`, `model_repository`, `statistics`
(https://github.com/triton-inference-server/server/tree/main/docs/protocol).
"""

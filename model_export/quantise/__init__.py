"""Model files in int8 and fp16, made from a published fp32 file and compared with it."""

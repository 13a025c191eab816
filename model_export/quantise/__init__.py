"""Files of lower precision, int8 and fp16: made from a published fp32 file, and proven beside it before they serve."""

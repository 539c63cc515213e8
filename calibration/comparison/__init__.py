"""A quantised model beside its FP32 model: answers, labels, time and memory."""

"""Time-agnostic VQGAN and time-sensitive transformer (TATS), one module for each trained stage.

Ge, Hayes, Yang, Yin, Pang, Jacobs, Huang, Parikh, "Long Video Generation with Time-Agnostic VQGAN and Time-Sensitive
Transformer", ECCV 2022, arXiv 2204.03638.
"""

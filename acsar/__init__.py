"""acsar"""

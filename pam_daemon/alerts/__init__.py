"""Alert rules: pure, in stream time, their state rebuilt from the journal.

tally: one rule at work; watch: all of them, and the order in which they hear of detections; coverage: when somebody
listened; rules: from the configuration; recall: from the journal.
"""

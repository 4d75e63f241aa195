"""Engines are verified in processes of their own: who asks, who answers, and what they say."""

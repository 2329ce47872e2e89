"""The security server: the policy, and what it says of two contexts."""

"""What every layer may use: error numbers, type names, uapi layouts, syscall declarations."""

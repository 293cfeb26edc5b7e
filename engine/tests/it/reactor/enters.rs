//! Goal: the kernel is entered exactly as often as the design says.
//! Method: count. Counts do not depend on the machine's load, as times do.

//! Reads a machine from the live host, hwloc XML, a sys folder, a synthetic description or a machine file.

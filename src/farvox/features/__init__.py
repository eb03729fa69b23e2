"""Front-ends: waveforms become features, batched, on the device."""

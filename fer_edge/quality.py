"""Quality of a face crop: size, luma, blur and pose."""

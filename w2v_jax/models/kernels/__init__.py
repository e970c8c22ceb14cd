"""Operations that have several forms, one file each; the form follows the platform."""

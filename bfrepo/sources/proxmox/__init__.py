"""Guests of Proxmox VE: the API says what there is, SSH carries the bytes."""

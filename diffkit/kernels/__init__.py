"""Operations of networks on processors, written in C: quicker than torch's own, and compared to those by tests."""

GMACS = 0.1


def build_custom_cnn(*_, **__):
    raise NotImplementedError

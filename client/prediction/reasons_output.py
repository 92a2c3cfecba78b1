"""Pictures of why."""
class ReasonsOutput:
    def __init__(self,*a): raise NotImplementedError

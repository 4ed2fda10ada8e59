from .answers import NOWHERE, UNKNOWN, Answer
from .graph import Graph
from .learn import Learned, learn
from .questions import Question, choose_questions
from .spreading import spread

__all__ = ["NOWHERE", "UNKNOWN", "Answer", "Graph", "Learned", "Question", "choose_questions", "learn", "spread"]

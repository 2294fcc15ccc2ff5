int calls_answer(void) { return 42; }

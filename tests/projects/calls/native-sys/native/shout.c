#include <ctype.h>

int calls_shout(int letter) { return toupper(letter); }

/* What spawn executes. Built twice: static and dynamic. */
int main(void)
{
    return 0;
}

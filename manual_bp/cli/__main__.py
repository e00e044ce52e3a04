from manual_bp.cli import main

main()
